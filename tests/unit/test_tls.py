"""The certificates of a cluster: who has signed them, for how long they are valid, for what."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from dask_runner.cluster.tls import LIFETIME, make_credentials


@pytest.fixture(scope="module")
def credentials():
    return make_credentials("main")


@pytest.mark.parametrize("which", ["ca", "cert"])
def test_valid_from_a_day_before_for_hosts_whose_clock_is_behind(credentials, which):
    certificate = x509.load_pem_x509_certificate(getattr(credentials, which).encode())
    now = datetime.now(UTC)
    before = now - certificate.not_valid_before_utc
    assert timedelta(days=1) <= before < timedelta(days=1, minutes=5)
    # And for those ahead, to the end of the longest cluster.
    after = certificate.not_valid_after_utc - now
    assert after > LIFETIME + timedelta(hours=23)


def test_one_certificate_for_all_parts_signed_by_an_authority_that_signs_nothing_else(credentials):
    ca = x509.load_pem_x509_certificate(credentials.ca.encode())
    cert = x509.load_pem_x509_certificate(credentials.cert.encode())
    cert.verify_directly_issued_by(ca)
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usages = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {*usages} == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    # The key is the certificate's: that of the authority is nowhere.
    key = load_pem_private_key(credentials.key.encode(), password=None)
    assert key.public_key() == cert.public_key()
    assert key.public_key() != ca.public_key()


def test_no_two_clusters_of_a_name_have_an_authority_in_common(credentials):
    ours = x509.load_pem_x509_certificate(credentials.cert.encode())
    other = x509.load_pem_x509_certificate(make_credentials("main").ca.encode())
    with pytest.raises(InvalidSignature):
        ours.verify_directly_issued_by(other)
