"""Where things are kept unless someone says otherwise; nothing is imported for it, so that the command line answers at once."""

STORAGE = "sqlite:///tuner.db"
ARTIFACTS = "tuner-artifacts"
