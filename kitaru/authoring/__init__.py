"""What users import to write flows. Nothing is imported here, so that each part costs only what it is."""
