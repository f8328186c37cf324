"""The topology file: read and checked here, and nowhere else.

::

    text ── _yaml ──▶ nodes with line, column and path ── _interpolation ──▶ ${VARIABLES} replaced
         ── _urls ──▶ URLs as mappings ── _validation (_models, _fields) ──▶ the shape is right
         ── _shards (_connect, _libpq), _keyspaces (_owners), _tables ──▶ Topology

Edits go the other way: `_edit` changes the text and touches no other line, `_replace` puts it in the file's place.

Every stage adds to the same `_problems` and goes on with what is left, so that one `ConfigError` tells everything.
"""

from typing import TYPE_CHECKING

from .._exports import exports

if TYPE_CHECKING:
    from ._describe import describe
    from ._document import WHERE, document, document_data, keyspace_data, read_document, shard_data
    from ._edit import edit_text, file_data, text_diff, value_data
    from ._files import file_findings, read_file
    from ._load import load_topology, parse_topology, read_text
    from ._masking import masked_url
    from ._replace import FileSnapshot, LockedFile, digest, locked, read_snapshot
    from ._schema import topology_schema

__all__ = [
    "WHERE",
    "LockedFile",
    "FileSnapshot",
    "describe",
    "digest",
    "document",
    "document_data",
    "edit_text",
    "file_data",
    "file_findings",
    "keyspace_data",
    "load_topology",
    "locked",
    "masked_url",
    "parse_topology",
    "read_document",
    "read_file",
    "read_snapshot",
    "read_text",
    "shard_data",
    "text_diff",
    "topology_schema",
    "value_data",
]

__getattr__ = exports(
    __name__,
    {
        "._describe": "describe",
        "._document": "WHERE document document_data keyspace_data read_document shard_data",
        "._edit": "edit_text file_data text_diff value_data",
        "._files": "file_findings read_file",
        "._load": "load_topology parse_topology read_text",
        "._masking": "masked_url",
        "._replace": "LockedFile FileSnapshot digest locked read_snapshot",
        "._schema": "topology_schema",
    },
)
