"""The faces: what people and processes talk to."""
