"""Plans, runs and compares: one run of one recipe, and studies of many under one budget."""
