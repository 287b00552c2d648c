"""What these tests share with those of the service: one loaded bundle."""

from tests.service.conftest import session

__all__ = ["session"]
