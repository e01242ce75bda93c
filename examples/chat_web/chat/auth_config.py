"""Where one signs in: at the OpenID Connect issuer at `CHAT_ISSUER`, or else at the one for trying things out."""

import os

from evolute import OidcProvider

providers = [OidcProvider(domain=os.environ.get("CHAT_ISSUER", "http://127.0.0.1:8099"), application_id="chat-web")]
