"""All of Packhorse that runs with the people who own the fleet."""
