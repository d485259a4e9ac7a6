"""From YAML to objects: schema, composition, construction."""
