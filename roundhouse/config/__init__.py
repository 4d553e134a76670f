"""From YAML files to rounds, experiments and sites."""
