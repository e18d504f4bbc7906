"""moto's S3 server, as the tests use it. Its first line of output is the port it listens on.

It asks for signatures. For each line `bucket NAME` on its standard input it makes a bucket, for each line
`user NAME ACTION…` one who may do these things, and answers with one line: `ok`, or the user's access key and secret key.
It ends with its standard input, so it never outlives the test that started it.

It answers one request at a time: S3 looks at a condition and writes in one step, which moto does not.
"""

import io
import json
import os
import sys
import threading

os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "0"

from moto.backends import get_backend  # noqa: E402
from moto.core import DEFAULT_ACCOUNT_ID  # noqa: E402
from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app  # noqa: E402
from werkzeug.serving import make_server  # noqa: E402

one_at_a_time = threading.Lock()
# Not moto's dispatcher of services: it lists their folders at every request, which takes as long as the rest.
application = create_backend_app("s3")


class Handler(MotoRequestHandler):
    def log_request(self, *_):
        pass


def serve(environ, start_response):
    # The body comes at its sender's pace, and keeps nobody waiting.
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if length:
        body = environ["wsgi.input"].read(length)
        if len(body) < length:
            start_response("400 Bad Request", [])
            return []
        environ["wsgi.input"] = io.BytesIO(body)
    with one_at_a_time:
        return list(application(environ, start_response))


def make_bucket(name):
    get_backend("s3")[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(name, "us-east-1")
    return "ok"


def make_user(name, *actions):
    iam = get_backend("iam")[DEFAULT_ACCOUNT_ID]["aws"]
    iam.create_user("us-east-1", name)
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    iam.put_user_policy(name, "all", json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    key = iam.create_access_key(name)
    return f"{key.access_key_id} {key.secret_access_key}"


server = make_server("127.0.0.1", 0, serve, threaded=True, request_handler=Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
for line in sys.stdin:
    command, *words = line.split()
    print({"bucket": make_bucket, "user": make_user}[command](*words), flush=True)
os._exit(0)
