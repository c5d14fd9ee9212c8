"""Makes the certificates of the KMIP tests in the folder that is named: pki.py DIR.

Of ECDSA on P-256, for PyKMIP's suites of TLS 1.2 with AES-GCM are for those only.
"""

import datetime
import ipaddress
import os
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

folder = sys.argv[1]
now = datetime.datetime.now(datetime.timezone.utc)
day = datetime.timedelta(days=1)


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def write(path, data, mode=0o644):
    with open(os.open(os.path.join(folder, path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as f:
        f.write(data)


def store(path, cert, key):
    write(path + ".pem", cert.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    write(path + ".key", key.private_bytes(*pem), 0o600)


def authority(path):
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder().subject_name(name(path)).issuer_name(name(path))
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - 400 * day).not_valid_after(now + 400 * day)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    usage = dict.fromkeys(
        ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"], False)
    builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
    cert = builder.sign(key, hashes.SHA256())
    store(path, cert, key)
    return cert, key


def member(path, common, issuer, purpose, first, last):
    issuer_cert, issuer_key = issuer
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder().subject_name(name(common)).issuer_name(issuer_cert.subject)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(first).not_valid_after(last)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    store(path, builder.sign(issuer_key, hashes.SHA256()), key)


ca, other = authority("ca"), authority("other-ca")
client, server = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
member("server", "kms", ca, server, now - day, now + 30 * day)
member("server-expired", "kms", ca, server, now - 30 * day, now - day)
member("client", "caisson", ca, client, now - day, now + 30 * day)
member("client-expired", "caisson", ca, client, now - 30 * day, now - day)
member("client-stranger", "caisson", other, client, now - day, now + 30 * day)
