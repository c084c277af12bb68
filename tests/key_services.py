"""Key services on loopback, each a process of its own: ``python -P tests/key_services.py KIND FOLDER PORT``; it prints its port.

    aws     moto: a server that speaks AWS KMS. It verifies signatures and IAM policies; keys come from FOLDER/aws.json, because
            moto keeps nothing
    kmip    PyKMIP, with mutual TLS and its database in FOLDER
    cloud   NOT the real services: what Microsoft and Google document of Entra ID, Azure Key Vault, Google's OAuth and Cloud KMS,
            as far as libmongocrypt uses it. It checks what it is asked, and really wraps. Keys are in FOLDER

FOLDER has ``server.pem`` (certificate and key of the server) and ``ca.pem``.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import re
import socket
import ssl
import sys
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

REGION, ACCOUNT = "eu-central-1", "123456789012"


def arn(identifier: str) -> str:
    return f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{identifier}"


def aws(folder: Path, port: int) -> None:
    os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "0"  # from the first request on
    from moto.iam.models import iam_backends
    from moto.kms.models import Key, kms_backends
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    wanted = json.loads((folder / "aws.json").read_text())
    for identifier, material in wanted["keys"].items():
        key = Key(None, "ENCRYPT_DECRYPT", "SYMMETRIC_DEFAULT", "", ACCOUNT, REGION)
        key.id, key.arn, key.key_material = identifier, arn(identifier), bytes.fromhex(material)
        kms_backends[ACCOUNT][REGION].keys[identifier] = key
    backend = iam_backends[ACCOUNT]["aws"]
    for user, (access_key, secret, actions) in wanted["users"].items():
        backend.create_user(REGION, user)
        made = backend.create_access_key(user)
        made.access_key_id, made.secret_access_key = access_key, secret
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
        backend.put_user_policy(user, "p", json.dumps(policy))
    for alias, identifier in wanted["aliases"].items():
        kms_backends[ACCOUNT][REGION].create_alias(identifier, alias)
    server = make_server(
        "127.0.0.1", port, DomainDispatcherApplication(create_backend_app), threaded=True, ssl_context=server_context(folder)
    )
    print(server.port, flush=True)  # noqa: T201 - the test reads it
    server.serve_forever()


def server_context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


def kmip(folder: Path, port: int) -> None:
    from kmip.services.server import KmipServer

    multiprocessing.set_start_method("fork")  # its Manager would run this file again
    (folder / "policies").mkdir(exist_ok=True)
    if not port:  # it does not take 0 for one that is free
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    server = KmipServer(
        hostname="127.0.0.1",
        port=port,
        certificate_path=str(folder / "server.pem"),
        key_path=str(folder / "server.pem"),
        ca_path=str(folder / "ca.pem"),
        auth_suite="TLS1.2",
        config_path=None,
        log_path=str(folder / "kmip.log"),
        policy_path=str(folder / "policies"),
        enable_tls_client_auth=True,
        logging_level="INFO",
        database_path=str(folder / "kmip.db"),
    )
    server.start()
    server._socket.listen()
    server._socket.settimeout(0.1)  # how often it looks whether it shall stop; 10 s otherwise
    print(port, flush=True)  # noqa: T201 - the test reads it
    server.serve()
    server.policy_monitor.terminate()
    server.manager.shutdown()
    os._exit(0)  # its own stop() waits for each thread in turn


class Cloud(BaseHTTPRequestHandler):
    """Whatever is not as documented is answered with 400, which fails the test."""

    folder: Path
    rsa_key: rsa.RSAPrivateKey
    aes_key: bytes
    gcp_public: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        """The metadata service of a machine on Google's cloud: https://cloud.google.com/compute/docs/access/authenticate-workloads"""
        assert self.path == "/computeMetadata/v1/instance/service-accounts/default/token"
        assert self.headers["Metadata-Flavor"] == "Google"
        self.answer(200, {"access_token": "gcp-token", "expires_in": 3599, "token_type": "Bearer"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        try:
            found = self.token(body) if "token" in self.path else self.key(json.loads(body))
        except Exception as error:  # noqa: BLE001 - whatever it is, the request was not as documented
            return self.answer(400, {"error": {"code": "BadParameter", "message": repr(error)}})
        return self.answer(*found)

    def token(self, body: str) -> tuple[int, dict[str, Any]]:
        assert self.headers["Content-Type"] == "application/x-www-form-urlencoded"
        form = dict(urllib.parse.parse_qsl(body, strict_parsing=True))
        if self.path == "/token":  # https://developers.google.com/identity/protocols/oauth2/service-account#httprest
            assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
            signed, _, signature = form["assertion"].rpartition(".")
            self.gcp_public.verify(unbase64url(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
            header, claims = (json.loads(unbase64url(part)) for part in signed.split("."))
            assert header == {"alg": "RS256", "typ": "JWT"}
            assert claims["iss"] == "crm@crm.iam.gserviceaccount.com"
            assert claims["exp"] > time.time() > claims["iat"] - 60
            assert claims["scope"] == "https://www.googleapis.com/auth/cloudkms"
            assert claims["aud"] == "https://oauth2.googleapis.com/token"
            assert self.headers["Host"] == "oauth2.googleapis.com"
            return 200, {"access_token": "gcp-token", "expires_in": 3599, "token_type": "Bearer"}
        # https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
        assert self.path == "/my-tenant/oauth2/v2.0/token"
        assert self.headers["Host"] == "login.microsoftonline.com"
        assert form["grant_type"] == "client_credentials"
        assert form["scope"] == "https://vault.azure.net/.default", form
        assert form["client_id"] == "my-client"
        if form["client_secret"] != "azure-client-secret":
            return 401, {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided."}
        return 200, {"token_type": "Bearer", "expires_in": 3599, "access_token": "azure-token"}

    def key(self, asked: dict[str, str]) -> tuple[int, dict[str, Any]]:
        assert self.headers["Content-Type"] == "application/json"
        if found := re.fullmatch(r"/keys/([^/]+)/([^/]+)/(wrapkey|unwrapkey)\?api-version=7\.1", self.path):
            # https://learn.microsoft.com/rest/api/keyvault/keys/wrap-key
            assert self.headers["Authorization"] == "Bearer azure-token"
            assert self.headers["Host"] == "my-vault.vault.azure.net"
            assert asked["alg"] == "RSA-OAEP-256"
            name, version, verb = found.groups()
            if (name, version) != ("my-key", "0123456789abcdef0123456789abcdef"):
                return 404, {"error": {"code": "KeyNotFound", "message": "A key with (name/id) was not found in this key vault."}}
            oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
            value = unbase64url(asked["value"])
            if verb == "wrapkey":
                value = self.rsa_key.public_key().encrypt(value, oaep)
            else:
                try:
                    value = self.rsa_key.decrypt(value, oaep)
                except ValueError:
                    return 400, {"error": {"code": "BadParameter", "message": "The parameter is incorrect."}}
            text = base64.urlsafe_b64encode(value).rstrip(b"=").decode()
            return 200, {"kid": f"https://127.0.0.1/keys/{name}/{version}", "value": text}
        # https://cloud.google.com/kms/docs/reference/rest/v1/projects.locations.keyRings.cryptoKeys/encrypt
        assert self.headers["Authorization"] == "Bearer gcp-token"
        assert self.headers["Host"] == "cloudkms.googleapis.com"
        path = "/v1/projects/my-project/locations/europe-west3/keyRings/my-ring/cryptoKeys/"
        assert self.path.startswith(path)
        name, _, verb = self.path.removeprefix(path).partition(":")
        if name != "my-key":
            words = "Permission 'cloudkms.cryptoKeyVersions.useToEncrypt' denied on resource"
            return 403, {"error": {"code": 403, "message": words, "status": "PERMISSION_DENIED"}}
        cipher = AESGCM(self.aes_key)
        if verb == "encrypt":
            nonce = os.urandom(12)
            sealed = nonce + cipher.encrypt(nonce, base64.b64decode(asked["plaintext"], validate=True), None)
            return 200, {"name": self.path, "ciphertext": base64.b64encode(sealed).decode()}
        assert verb == "decrypt"
        sealed = base64.b64decode(asked["ciphertext"], validate=True)
        try:
            return 200, {"plaintext": base64.b64encode(cipher.decrypt(sealed[:12], sealed[12:], None)).decode()}
        except Exception:  # noqa: BLE001 - InvalidTag and ValueError
            return 400, {"error": {"code": 400, "message": "Decryption failed: invalid ciphertext.", "status": "INVALID_ARGUMENT"}}

    def answer(self, status: int, said: dict[str, Any] | str) -> None:
        body = (said if isinstance(said, str) else json.dumps(said)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def unbase64url(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def cloud(folder: Path, port: int) -> None:
    Cloud.folder = folder
    Cloud.rsa_key = serialization.load_pem_private_key((folder / "azure.pem").read_bytes(), None)  # type: ignore[assignment]  # it is RSA
    Cloud.aes_key = (folder / "gcp.key").read_bytes()
    Cloud.gcp_public = serialization.load_pem_public_key((folder / "gcp.pub").read_bytes())
    server = ThreadingHTTPServer(("127.0.0.1", port), Cloud)
    if not (folder / "plain").exists():
        server.socket = server_context(folder).wrap_socket(server.socket, server_side=True)
    print(server.server_port, flush=True)  # noqa: T201 - the test reads it
    server.serve_forever()


if __name__ == "__main__":
    {"aws": aws, "kmip": kmip, "cloud": cloud}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
