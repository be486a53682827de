"""The keys of a cluster as they travel. Apart from what makes them, which is slow to import."""

from msgspec import Struct


class Credentials(Struct, frozen=True, kw_only=True):
    """PEM texts: the cluster's CA certificate, and a certificate and key signed by it."""

    ca: str
    cert: str
    key: str

    def __repr__(self) -> str:
        return "Credentials(...)"
