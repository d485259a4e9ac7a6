"""The one error that is the user's to mend."""


class InputError(ValueError):
    """What was given cannot be used: a config value, a file, a run folder, a device.

    Its text is one line that names the file, row or key at fault, what was expected and, where
    there are any, the valid choices. Commands print it and exit with code 2; any other exception
    is a bug of ours and shows its traceback.
    """
