"""A stand-in for a Vault server on loopback: the Transit requests as documented, really encrypted, and all that can go wrong.

Not Vault: what it demands and answers is taken from developer.hashicorp.com/vault/api-docs/secret/transit. The tests that can
run on a real server run on OpenBao, too, where there is one. What goes wrong is chosen by the name of the key.

    python vault_server.py [CERTIFICATE.pem]        prints its port; ends with its standard input
"""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TOKEN = "s.a-token-of-these-tests"
KINDS = {"rsa": "rsa-4096", "short": "aes128-gcm96", "hmac": "hmac", "xchacha": "xchacha20-poly1305", "odd": "<b>odd</b>"}
STATUS = {"throttled": 429, "broken": 500, "gateway": 502, "sealed": 503, "late": 504, "bad": 400, "forbidden": 403, "teapot": 418}
ODD = {
    "text": b"<html>",
    "nothing": b"",
    "list": b"[]",
    "empty": b"{}",
    "number": b'{"data": {"ciphertext": 7, "plaintext": 7}}',
    "unfit": b'{"data": {"ciphertext": "vault:v1:x y", "plaintext": "x y"}}',
    "bytes": b"\xff\xfe",
}
KEYS = {name: AESGCM(os.urandom(32)) for name in ("kek", "other")}
REQUESTS: list[dict[str, Any]] = []


class Transit(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def answer(self, status: int, content: object, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/requests":
            self.answer(200, REQUESTS)
        else:
            self.respond({})

    def do_POST(self) -> None:
        self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def respond(self, content: dict[str, str]) -> None:
        headers = {name: self.headers[name] for name in ("X-Vault-Token", "X-Vault-Namespace", "X-Vault-Request")}
        REQUESTS.append({"method": self.command, "path": self.path, "headers": headers, "names": sorted(content)})
        matched = re.fullmatch(r"/v1/(transit|a/mount)/(keys|encrypt|decrypt)/([^/]+)", self.path)
        if self.headers["X-Vault-Token"] != TOKEN:
            self.answer(403, {"errors": ["permission denied"]})
        elif matched is None:
            self.answer(404, {"errors": ["no handler for route"]})
        else:
            self.transit(matched[2], matched[3], content)

    def transit(self, verb: str, key: str, content: dict[str, str]) -> None:
        trouble, _, when = key.partition("-at-")
        if when in ("", verb) and self.troubled(trouble, content):
            return
        if verb == "keys":
            if trouble == "missing":
                self.answer(404, {"errors": []})
            else:
                kind = KINDS.get(key, "aes256-gcm96")
                self.answer(200, {"data": {"type": kind, "derived": key == "derived", "name": key}})
            return
        cipher = KEYS.get(key, KEYS["kek"])
        if verb == "encrypt":
            nonce = os.urandom(12)
            blob = nonce + cipher.encrypt(nonce, base64.b64decode(content["plaintext"], validate=True), None)
            self.answer(200, {"data": {"ciphertext": "vault:v1:" + base64.b64encode(blob).decode(), "key_version": 1}})
            return
        try:
            version, _, text = content["ciphertext"].removeprefix("vault:").partition(":")
            blob = base64.b64decode(text, validate=True)
            plaintext = cipher.decrypt(blob[:12], blob[12:], None) if version == "v1" else b""
        except (InvalidTag, ValueError):
            self.answer(400, {"errors": ["cipher: message authentication failed"]})
        else:
            self.answer(200, {"data": {"plaintext": base64.b64encode(plaintext).decode()}})

    def troubled(self, trouble: str, content: dict[str, str]) -> bool:
        if trouble in STATUS:
            self.answer(STATUS[trouble], {"errors": ["words of Vault's", "more\n" * 100, 7]})
        elif trouble == "echo":
            self.answer(400, {"errors": [f"what was sent: {' '.join(content.values())} by {self.headers['X-Vault-Token']}"]})
        elif trouble == "wordless":
            self.answer(400, {"errors": "x"})
        elif trouble in ODD:
            self.answer(200, ODD[trouble])
        elif trouble == "elsewhere":
            there = f"http://localhost:{self.server.server_address[1]}/v1/transit/encrypt/kek"
            self.answer(307, b"", Location=there)
        elif trouble == "silent":
            time.sleep(60)
        elif trouble == "trickling":
            self.send_response(200)
            self.end_headers()
            for _ in range(300):
                self.wfile.write(b" ")
                time.sleep(0.2)
        elif trouble == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"data"')
            self.close_connection = True
        elif trouble == "hanging":
            self.close_connection = True
        else:
            return False
        return True


class Server(ThreadingHTTPServer):
    """In silence, whatever a client does; with the certificate if one is given."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


def main() -> None:
    server = Server(("127.0.0.1", 0), Transit)
    if sys.argv[1:]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
