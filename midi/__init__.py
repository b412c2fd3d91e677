"""Music: piano rolls, data sets, models and generation. They arrive with the next version."""
