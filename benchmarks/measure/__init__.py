"""What the tables are made of: processes timed, models compared, nodes counted, inference raced."""
