"""What users import and type: the Python client and the command line.

Imports neither jax nor ray, nor anything else at start-up that is not needed.
"""
