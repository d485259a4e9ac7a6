"""Path from YAML to objects: schemas, composition, construction."""
