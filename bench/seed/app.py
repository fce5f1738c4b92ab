"""The seed's reads: Flask answers what Redis holds, one GET a request. No session, no template, no logging."""

import os

import redis
from flask import Flask, Response, abort

app = Flask(__name__, static_folder=None)
cache = redis.Redis.from_url(os.environ["SEED_REDIS"])  # a pool: each thread keeps its connection


@app.get("/cached/<name>")
def cached(name):
    body = cache.get(name)
    if body is None:
        abort(404)
    return Response(body, mimetype="application/json")
