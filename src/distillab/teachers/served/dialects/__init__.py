"""How servers are asked, and how their answers are read: one file for each form of API."""
