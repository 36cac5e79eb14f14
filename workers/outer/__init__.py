"""Training in which pods synchronise every so often: DiLoCo and Streaming DiLoCo."""
