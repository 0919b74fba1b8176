"""What the workflow needs around the science: configuration, cells, jobs and provenance."""
