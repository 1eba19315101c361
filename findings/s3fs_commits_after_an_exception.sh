#!/usr/bin/env bash
# s3fs 2026.9.0 against moto 5.2.5's S3 server: an exception inside `with fs.open(key, "wb")`.
#
# Expected: an object of a store is there whole or not at all, so an object whose writer raised is not there.
# Seen: leaving the block by an exception commits what was written so far: a short object under the final name, also where it is large
# enough for several parts. `with fs.transaction:` around the block leaves nothing.
source "$(dirname "$0")/environment.sh"
environment s3fs==2026.9.0 'moto[server,s3]==5.2.5' boto3==1.43.117

cat >"$work/write.py" <<'PYTHON'
import os
from contextlib import nullcontext

from moto.server import ThreadedMotoServer

os.environ |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
server.start()
host, port = server.get_host_and_port()

import s3fs  # noqa: E402

fs = s3fs.S3FileSystem(endpoint_url=f"http://{host}:{port}", use_listings_cache=False)
fs.mkdir("corpus")
for name, context, written in (
    ("small", nullcontext(), 1 << 20),
    ("of several parts", nullcontext(), 12 << 20),
    ("in a transaction", fs.transaction, 1 << 20),
):
    try:
        with context, fs.open(f"corpus/{name}", "wb", block_size=5 << 20) as file:
            file.write(bytes(written))
            raise ValueError("the next sample cannot be read")
    except ValueError:
        pass
    found = f"{fs.size(f'corpus/{name}') >> 20} MiB" if fs.exists(f"corpus/{name}") else "nothing"
    print(f"result: {name}: {found}", flush=True)
server.stop()
PYTHON

python "$work/write.py" 2>"$work/messages" | grep '^result' | tee "$work/seen"
expect "$work/seen" <<'SEEN'
result: small: 1 MiB
result: of several parts: 12 MiB
result: in a transaction: nothing
SEEN
