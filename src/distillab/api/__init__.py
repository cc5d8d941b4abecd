"""The Python door: what `import distillab` hands on. Objects in memory stand where a recipe has paths."""
