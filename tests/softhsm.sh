# Finds SoftHSM2's library or unpacks it to .venv/softhsm. Prints 1 if the tests can use it, else nothing; says why on stderr.
say() { echo "== $*" >&2; }
found() { "$PY" -c 'import ctypes, sys; sys.path.insert(0, "tests"); import softhsm; [ctypes.CDLL(str(p)) for p in softhsm.places()[:1]] or sys.exit(1)' 2>&1; }

if found >/dev/null; then echo 1; exit; fi
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    say "the tests of PKCS#11 will be skipped: there is no SoftHSM2 on this system, and no apt-get to fetch it (SOFTHSM2_MODULE=/path)"
    exit
fi
say "fetching SoftHSM2 for the tests of PKCS#11, unpacked to .venv/softhsm (about 2 MB, once)"
folder=$(mktemp -d) || exit 0
trap 'rm -rf "$folder"' EXIT
fetch() { (cd "$folder" && apt-get download -q "$@") >"$folder/log" 2>&1; }
if ! fetch libsofthsm2; then
    [ "$(id -u)" = 0 ] && apt-get update -qq >/dev/null 2>&1
    if ! fetch libsofthsm2; then
        say "the tests of PKCS#11 will be skipped: apt-get download libsofthsm2 failed: $(tail -n 1 "$folder/log")"
        exit
    fi
fi
rm -rf .venv/softhsm && mkdir -p .venv/softhsm
for package in "$folder"/*.deb; do dpkg -x "$package" .venv/softhsm || exit 0; done
if why=$(found); then echo 1; else say "the tests of PKCS#11 will be skipped: SoftHSM2 does not load: $(echo "$why" | tail -n 1)"; fi
