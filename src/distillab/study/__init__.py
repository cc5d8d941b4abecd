"""Plan, run and compare the arms × seeds of a study."""
