"""libpq's connection keywords, which of them a topology may set, and the values that some of them are limited to.

https://www.postgresql.org/docs/18/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

from __future__ import annotations

from ipaddress import ip_address

KEYWORDS: dict[str, str] = {
    "host": "Host name, address, or directory of a unix socket.",
    "hostaddr": "Address to connect to; host is then only the name that the certificate is checked against.",
    "port": "Port, 5432 if not given.",
    "dbname": "Database name.",
    "user": "Role to connect as.",
    "passfile": "File in the format of .pgpass.",
    "service": "Name of a service in pg_service.conf.",
    "sslmode": "verify-full, unless the host is this machine.",
    "sslnegotiation": "postgres or direct.",
    "sslcompression": "0 or 1.",
    "sslcert": "File with the client certificate.",
    "sslkey": "File with the client's key.",
    "sslcertmode": "disable, allow or require.",
    "sslrootcert": "File with the certificate authorities, or system.",
    "sslcrl": "File with revoked certificates.",
    "sslcrldir": "Directory with revoked certificates.",
    "sslsni": "0 or 1.",
    "ssl_min_protocol_version": "TLSv1.2 if not given.",
    "ssl_max_protocol_version": "The newest TLS version allowed.",
    "require_auth": "Accepted authentication methods: scram-sha-256, unless the host is this machine.",
    "requirepeer": "Operating system user that the server at a unix socket runs as.",
    "channel_binding": "disable, prefer or require.",
    "connect_timeout": "Seconds that one attempt to connect may take, 3 if not given.",
    "tcp_user_timeout": "Milliseconds that sent data may stay unacknowledged.",
    "keepalives": "0 or 1.",
    "keepalives_idle": "Seconds of silence before a keepalive is sent.",
    "keepalives_interval": "Seconds between keepalives.",
    "keepalives_count": "Keepalives that may be lost.",
    "target_session_attrs": "What kind of server will do.",
    "load_balance_hosts": "disable or random.",
    "application_name": "Name shown in pg_stat_activity.",
    "fallback_application_name": "Name shown when application_name is not given.",
    "client_encoding": "Encoding of text.",
    "options": "Command line options for the server, such as -c search_path=app.",
    "min_protocol_version": "The oldest wire protocol allowed.",
    "max_protocol_version": "The newest wire protocol allowed.",
    "gssencmode": "disable, prefer or require.",
    "krbsrvname": "Kerberos service name.",
    "gsslib": "GSS library.",
    "gssdelegation": "0 or 1.",
    "oauth_issuer": "URL of the OAuth issuer.",
    "oauth_client_id": "OAuth client.",
    "oauth_scope": "OAuth scope.",
}

# Keywords that libpq knows and a topology may not set, with what to do instead.
REFUSED: dict[str, str] = {
    "sslpassword": "Use a key file without a passphrase that only the service can read.",
    "oauth_client_secret": "Use a public OAuth client, or a password.",
    "scram_client_key": "Use password or password_file.",
    "scram_server_key": "Use password or password_file.",
    "replication": "Connections of a router are ordinary ones.",
    "sslkeylogfile": "It would write the session keys to a file.",
}

_BOOLEAN = ("0", "1")

VALUES: dict[str, tuple[str, ...]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "sslcertmode": ("disable", "allow", "require"),
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "load_balance_hosts": ("disable", "random"),
    "keepalives": _BOOLEAN,
    "sslcompression": _BOOLEAN,
    "sslsni": _BOOLEAN,
    "gssdelegation": _BOOLEAN,
}

NUMBERS = frozenset(
    {"port", "connect_timeout", "tcp_user_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count"}
)


def is_local(host: str) -> bool:
    """Whether a host is this machine: a unix socket, `localhost` or a loopback address.

    An address is judged as one: `127.0.0.1.example.com` is a name, and whose server it leads to its owner decides.
    """
    if host in ("", "localhost") or host.startswith(("/", "@")):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
