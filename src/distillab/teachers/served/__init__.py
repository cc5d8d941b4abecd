"""Teachers behind a server: requests, answers and what they mean. Numbers are checked before they are used."""
