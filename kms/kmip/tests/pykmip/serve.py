"""Runs PyKMIP's server, as pykmip-server does; with KMIP_ONLY=1.2 in the environment as one of that version and no other."""

import os

from kmip.core.messages import contents
from kmip.services.server import engine, server

only = os.environ.get("KMIP_ONLY")
if only:
    make = engine.KmipEngine.__init__

    def limited(self, *args, **kwargs):
        make(self, *args, **kwargs)
        version = contents.ProtocolVersion(*map(int, only.split(".")))
        self._protocol_versions = [version]
        self.default_protocol_version = self._protocol_version = version

    engine.KmipEngine.__init__ = limited

server.main()
