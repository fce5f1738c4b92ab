# One image for every role; the subcommand says which one runs. Built without a syntax line so that no front end
# has to be pulled: cache mounts are part of the BuildKit that Docker 20.10 and later bring.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package casitas \
 && install -D target/release/casitas /out/casitas

FROM debian:bookworm-slim
# The uid is fixed because the volumes (artifacts, secrets) are owned by it.
RUN groupadd --gid 10001 casitas \
 && useradd --uid 10001 --gid casitas --no-create-home --home-dir /var/lib/casitas --shell /usr/sbin/nologin casitas \
 && install -d -o casitas -g casitas -m 0750 /var/lib/casitas /var/lib/casitas/artifacts \
 && install -d -m 0755 /run/casitas /run/casitas/secrets
COPY --from=build /out/casitas /usr/local/bin/casitas
COPY LICENSE /usr/share/doc/casitas/LICENSE
USER casitas
WORKDIR /var/lib/casitas
STOPSIGNAL SIGTERM
# 8081 command-api, 8082 query-api, 9090 the internal listener of the roles without a public one.
EXPOSE 8081 8082 9090
ENTRYPOINT ["casitas"]
CMD ["--help"]
