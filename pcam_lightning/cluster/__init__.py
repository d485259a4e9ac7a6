"""The cluster that jobs run on."""
