"""Flow matching on sparse fields: ten techniques, and a hundred combinations of them, against a common base."""
