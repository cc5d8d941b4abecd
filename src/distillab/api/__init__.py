"""The Python interface: what `import distillab` provides. It takes objects in memory where a recipe has paths."""
