"""Networks beside the plain transformer, for models that follow videos, pictures or cameras."""
