"""What a run looks like: boxes on images, curves over training, tables of results."""
