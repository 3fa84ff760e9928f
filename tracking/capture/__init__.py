"""What a run records of its surroundings by itself. Each part degrades to None where it cannot tell."""
