"""The generator of synthetic human motion: a body, its gaits and programmes, and the courses they are made of."""
