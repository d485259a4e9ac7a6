"""Archive of a trained model that works offline, without this package."""
