"""Which tokens are good, against a real issuer; each that is not is refused by name."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import Response

from evolute.auth.fetch import HttpFetcher
from evolute.auth.token import brief
from evolute.auth.token_verifier import TokenVerifier, VerifiedUser
from evolute.clock import NS_PER_MS, NS_PER_S, ManualClock
from evolute.errors import InvalidAuthHeader, IssuerUnavailable, NoAuthProvider, Unauthorized
from evolute.limits import Limits
from evolute.registry.auth_providers import ALGORITHMS, AuthProvider, CustomJwtProvider, OidcProvider
from tests.oidc_issuer import AUDIENCE, DISCOVERY, JWKS, LIFETIME_S, OidcIssuer, forged, running_issuer, signing_input

START_S = 1_700_000_000
LIMITS = Limits()


@pytest.fixture(scope="module")
def running() -> Iterator[OidcIssuer]:
    with running_issuer(now_s=lambda: START_S) as issuer:
        yield issuer


@pytest.fixture
def issuer(running: OidcIssuer) -> OidcIssuer:
    """As if it were new."""
    running.fetches.clear()
    running.answers.clear()
    running.failing = False
    for algorithm in ALGORITHMS:
        if len([key for key in running.keys.values() if key.algorithm == algorithm]) > 1:
            running.rotate(algorithm)
    return running


class Verifying:
    """A verifier on an event loop of its own, and its clock."""

    def __init__(self, *providers: AuthProvider, limits: Limits = LIMITS, redact: bool = False) -> None:
        self.providers = providers
        self.clock = ManualClock(START_S * NS_PER_S)
        fetch = HttpFetcher(limits).get
        self.verifier = TokenVerifier(lambda: self.providers, self.clock, limits, fetch, redact=redact)

    def advance(self, ms: int) -> None:
        self.clock.set_ns(self.clock.now_ns() + ms * NS_PER_MS)

    async def user(self, token: str) -> VerifiedUser:
        found = self.verifier.verify(token)
        return found if isinstance(found, VerifiedUser) else await found

    async def attributes(self, token: str) -> dict[str, Any]:
        found = json.loads((await self.user(token)).attributes)
        assert isinstance(found, dict)
        return found

    async def refusal(self, token: str) -> Unauthorized:
        with pytest.raises(Unauthorized) as raised:
            await self.user(token)
        return raised.value


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    asyncio.run(whole())


def oidc(issuer: OidcIssuer, **changes: str) -> OidcProvider:
    return OidcProvider(**{"domain": issuer.url, "application_id": AUDIENCE, **changes})


def custom(issuer: OidcIssuer, algorithm: str = "RS256", application_id: str | None = None) -> CustomJwtProvider:
    return CustomJwtProvider(issuer.url, issuer.url + JWKS, algorithm, application_id)


# --- Good tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_good_token_of_each_algorithm(issuer: OidcIssuer, algorithm: str) -> None:
    async def test() -> None:
        for provider in (oidc(issuer), custom(issuer, algorithm)):
            user = await Verifying(provider).user(issuer.token(algorithm=algorithm, sub="ada"))
            assert json.loads(user.attributes)["tokenIdentifier"] == f"{issuer.url}|ada"
            assert user.expires_ns == (START_S + LIFETIME_S) * NS_PER_S + LIMITS.token_leeway_ms * NS_PER_MS

    run(test)


def test_standard_claims_have_the_names_that_functions_know(issuer: OidcIssuer) -> None:
    claims = {
        **{name: name for name in ("name", "given_name", "family_name", "nickname", "preferred_username", "gender")},
        "profile": "p",
        "picture": "q",
        "website": "w",
        "email": "a@b",
        "birthdate": "1815-12-10",
        "zoneinfo": "Europe/London",
        "locale": "en",
        "phone_number": "1",
        "phone_number_verified": "true",
        "email_verified": False,
        "address": {"formatted": "London", "country": "UK"},
        "updated_at": START_S,
        "https://example.com/roles": ["a", "b"],
        "org": {"id": 7, "plan": {"name": "free"}},
        "aud": [AUDIENCE],
        "jti": "1",
        "nbf": START_S,
        "fva": [1, 2],
        "nonce": "n",
        "azp": "z",
        "auth_time": 1,
        "$bad": 1,
        "ümlaut": 2,
        "tokenIdentifier": "i|eve",
        "subject": "eve",
        "issuer": "eve",
    }

    async def test() -> None:
        assert await Verifying(oidc(issuer)).attributes(issuer.token(claims)) == {
            "tokenIdentifier": f"{issuer.url}|ada",
            "issuer": issuer.url,
            "subject": "ada",
            "name": "name",
            "givenName": "given_name",
            "familyName": "family_name",
            "nickname": "nickname",
            "preferredUsername": "preferred_username",
            "gender": "gender",
            "profileUrl": "p",
            "pictureUrl": "q",
            "websiteUrl": "w",
            "email": "a@b",
            "emailVerified": False,
            "birthday": "1815-12-10",
            "timezone": "Europe/London",
            "language": "en",
            "phoneNumber": "1",
            "phoneNumberVerified": True,
            "address": "London",
            "updatedAt": "2023-11-14T22:13:20Z",
            "https://example.com/roles": ["a", "b"],
            "org.id": 7,
            "org.plan.name": "free",
        }

    run(test)


def test_all_claims_of_a_custom_token_keep_their_names(issuer: OidcIssuer) -> None:
    async def test() -> None:
        token = issuer.token(given_name="Ada", properties={"id": "7", "tags": ["x"]}, jti="1", tokenIdentifier="eve")
        assert await Verifying(custom(issuer)).attributes(token) == {
            "tokenIdentifier": f"{issuer.url}|ada",
            "issuer": issuer.url,
            "subject": "ada",
            "given_name": "Ada",
            "properties.id": "7",
            "properties.tags": ["x"],
            "aud": AUDIENCE,
        }

    run(test)


def test_a_token_that_is_refreshed_leaves_the_user_as_he_was(issuer: OidcIssuer) -> None:
    async def test() -> None:
        for provider in (oidc(issuer), custom(issuer)):
            verifying = Verifying(provider)
            first = await verifying.user(issuer.token(name="Ada", jti="1"))
            later = {
                "name": "Ada",
                "jti": "2",
                "iat": START_S + 1,
                "nbf": START_S + 1,
                "exp": START_S + 9,
                "nonce": "x",
            }
            second = await verifying.user(issuer.token(later))
            assert first.attributes == second.attributes
            assert first.expires_ns != second.expires_ns

    run(test)


def test_spellings_of_an_issuer_and_of_a_type_that_are_one(issuer: OidcIssuer) -> None:
    async def test() -> None:
        with_slash = Verifying(oidc(issuer, domain=issuer.url + "/"))
        assert (await with_slash.attributes(issuer.token()))["issuer"] == issuer.url
        assert (await with_slash.attributes(issuer.token(iss=issuer.url + "/")))["issuer"] == issuer.url + "/"
        bare = Verifying(CustomJwtProvider("login.example", issuer.url + JWKS, "RS256"))
        await bare.user(issuer.token(iss="https://login.example"))
        for kind in ("JWT", "jwt", "at+jwt", "application/at+jwt", None):
            await with_slash.user(issuer.token(header={"typ": kind}))

    run(test)


def test_the_first_provider_that_fits_decides(issuer: OidcIssuer) -> None:
    async def test() -> None:
        verifying = Verifying(oidc(issuer, application_id="other"), custom(issuer, application_id="a"), oidc(issuer))
        assert "aud" not in await verifying.attributes(issuer.token())
        assert (await verifying.attributes(issuer.token(aud=["a", "b"])))["aud"] == ["a", "b"]

    run(test)


def test_keys_in_a_data_url_are_not_fetched(issuer: OidcIssuer) -> None:
    encoded = base64.b64encode(json.dumps(issuer.key_set).encode()).decode()
    plain = json.dumps(issuer.key_set).replace("%", "%25")

    async def test() -> None:
        for url in (f"data:application/json;base64,{encoded}", f"data:text/plain,{plain}"):
            verifying = Verifying(CustomJwtProvider("https://i", url, "ES256"))
            good = verifying.verifier.verify(issuer.token(algorithm="ES256", iss="https://i"))
            assert isinstance(good, VerifiedUser)
            error = await verifying.refusal(issuer.token(algorithm="ES256", iss="https://i", header={"kid": "other"}))
            assert "no key for ES256, 'other'" in str(error)
        assert not issuer.fetches

    run(test)


# --- Tokens that are refused ------------------------------------------------------------------------------------------

NOW = {"iat": START_S, "exp": START_S + 60}
REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    ({"exp": START_S - 5}, "Unauthenticated", "expired at 2023-11-14T22:13:15Z"),
    ({"exp": None}, "Unauthenticated", "no time at which it expires"),
    ({"exp": "tomorrow"}, "Unauthenticated", "`exp` is no time in seconds: 'tomorrow'"),
    ({"exp": True}, "Unauthenticated", "`exp` is no time in seconds: True"),
    ({"nbf": START_S + 6}, "Unauthenticated", "not valid before 2023-11-14T22:13:26Z"),
    ({"iat": START_S + 6}, "Unauthenticated", "issued in the future"),
    ({"aud": "another-app"}, "NoAuthProvider", "its audience (aud) 'another-app'"),
    ({"aud": None}, "NoAuthProvider", "its audience (aud) None"),
    ({"aud": [AUDIENCE, "another-app"]}, "Unauthenticated", "several audiences"),
    ({"iss": "https://elsewhere.example"}, "NoAuthProvider", "'https://elsewhere.example'"),
    ({"iss": None}, "InvalidAuthHeader", "names no issuer"),
    ({"sub": None}, "Unauthenticated", "names no subject"),
    ({"sub": 7}, "Unauthenticated", "names no subject"),
]


@pytest.mark.parametrize(("changes", "code", "text"), REFUSALS, ids=[text for _, _, text in REFUSALS])
def test_claims_that_are_refused(issuer: OidcIssuer, changes: dict[str, Any], code: str, text: str) -> None:
    async def test() -> None:
        error = await Verifying(oidc(issuer)).refusal(issuer.token(changes))
        assert error.code == code
        assert text in str(error)
        assert not issuer.fetches, "nobody waits for an issuer because of a token that is bad in any case"

    run(test)


def test_leeway(issuer: OidcIssuer) -> None:
    async def test() -> None:
        verifying = Verifying(oidc(issuer))
        for changes in ({"exp": START_S - 4}, {"nbf": START_S + 5}, {"iat": START_S + 5}):
            await verifying.user(issuer.token(changes))
        strict = Verifying(oidc(issuer), limits=Limits(token_leeway_ms=0))
        for changes in ({"exp": START_S}, {"nbf": START_S + 1}, {"iat": START_S + 1}):
            await strict.refusal(issuer.token(changes))

    run(test)


def test_signatures_that_are_refused(issuer: OidcIssuer) -> None:
    """Unsigned, signed with what everybody knows, signed by somebody else, changed after it was signed."""
    key = issuer.key("RS256")
    hs256 = {"alg": "HS256", "typ": "JWT", "kid": key.kid}
    by_public_key = hmac.digest(key.public_pem, signing_input(hs256, issuer.claims({})), hashlib.sha256)
    header, claims, signature = issuer.token().split(".")
    _, of_eve, _ = issuer.token(sub="eve").split(".")
    stranger = OidcIssuer(issuer.url, now_s=lambda: START_S).key("RS256")
    cases = {
        "(alg) is 'none'": issuer.forged({"alg": "none", "typ": "JWT"}, b""),
        "(alg) is 'nOnE'": issuer.forged({"alg": "nOnE", "typ": "JWT"}, b""),
        "(alg) is 'HS256'": issuer.forged(hs256, by_public_key),
        "(alg) is 'PS256'": issuer.forged({"alg": "PS256", "kid": key.kid}, b"x"),
        "names no algorithm": issuer.forged({"typ": "JWT"}, b"x"),
        "not that of the key": f"{header}.{of_eve}.{signature}",
        "is not that of the key that the token names": f"{header}.{claims}.{'A' * len(signature)}",
        "It is not that of the key": issuer.token(key=stranger, header={"kid": key.kid}),
        "no key for RS256, 'made-up'": issuer.token(header={"kid": "made-up"}),
        # The key is there, but for another algorithm than the header says.
        "no key for ES256, 'rs256": issuer.forged({"alg": "ES256", "kid": key.kid}, b"x" * 64),
        "has extensions (crit)": issuer.token(header={"crit": ["exp"]}),
        "of the type 'logout+jwt'": issuer.token(header={"typ": "logout+jwt"}),
        "`kid` in the header": issuer.forged({"alg": "RS256", "kid": 7}, b"x"),
    }

    async def test() -> None:
        verifying = Verifying(oidc(issuer))
        for text, token in cases.items():
            assert text in str(await verifying.refusal(token)), token
        es256 = Verifying(custom(issuer, "ES256"))
        assert "(alg) is 'RS256', and tokens of" in str(await es256.refusal(issuer.token()))

    run(test)


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("", "three parts"),
        ("a.b", "three parts"),
        ("a.b.c.d", "three parts"),
        ("é.b.c", "three parts"),
        ("!.b.c", "header. It is not base64url"),
        ("eyJhbGciOiJSUzI1NiJ9.e30=.", "payload. It is not base64url"),
        ("eyJhbGciOiJSUzI1NiJ9.e31.", "payload. It is not base64url"),  # a second spelling of the same bytes
        ("W10.e30.", "header. It is not a JSON object"),
        ("eyJhbGciOiJSUzI1NiJ9.bm8.", "payload. It is not JSON"),
        ("x" * (LIMITS.token_bytes_max + 1), "token_bytes_max"),
    ],
)
def test_what_is_no_token(issuer: OidcIssuer, token: str, text: str) -> None:
    async def test() -> None:
        error = await Verifying(oidc(issuer)).refusal(token)
        assert isinstance(error, InvalidAuthHeader)
        assert text in str(error)

    run(test)


def test_claims_that_are_deep_or_many_are_no_trouble(issuer: OidcIssuer) -> None:
    deep: Any = 1
    deep_list: Any = []
    for _ in range(900):
        deep, deep_list = {"a": deep}, [deep_list]
    deeper: Any = deep_list
    for _ in range(200_000):  # Python versions differ in how deep they go
        deeper = [deeper]
    assert brief(deeper) == "what is too deep to be shown"

    async def test() -> None:
        verifying, of_oidc = Verifying(custom(issuer)), Verifying(oidc(issuer))
        # Its name would be too long for a field.
        assert (await verifying.attributes(issuer.token(b=deep)))["subject"] == "ada"
        for name in ("b", "email_verified", "address", "updated_at"):
            await of_oidc.user(issuer.token({name: deep_list}))
        for name, code in (("aud", "NoAuthProvider"), ("iss", "InvalidAuthHeader"), ("exp", "Unauthenticated")):
            token = forged({"alg": "RS256", "typ": "JWT"}, issuer.claims({name: deep_list}), b"x")
            assert (await of_oidc.refusal(token)).code == code
        for name in ("typ", "alg", "kid"):
            header = {"alg": "RS256", "typ": "JWT", name: deep_list}
            assert isinstance(await verifying.refusal(issuer.forged(header, b"x")), InvalidAuthHeader)
        many = issuer.token({f"c{number}": number for number in range(2000)})
        assert "no value" in str(await verifying.refusal(many))

    run(test)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
CLAIMS = st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "name", "email_verified", "address", "updated_at"])
HEADERS = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5c"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(CLAIMS | st.text(max_size=10), JSON, max_size=5), st.dictionaries(HEADERS, JSON, max_size=2))
def test_whatever_a_token_says_it_is_a_user_or_refused(
    issuer: OidcIssuer, changes: dict[str, Any], headers: dict[str, Any]
) -> None:
    """Signed by the issuer's own key, so that nothing saves the server from reading it."""
    header = {"alg": "EdDSA", "typ": "JWT", "kid": issuer.key("EdDSA").kid, **headers}
    claims = {**issuer.claims({}), **changes}
    signature = jwt.get_algorithm_by_name("EdDSA").sign(signing_input(header, claims), issuer.key("EdDSA").private)
    verifying = Verifying(data_provider(issuer))
    try:
        found = verifying.verifier.verify(forged(header, claims, signature))
    except Unauthorized:
        return
    except IssuerUnavailable:
        raise AssertionError("its keys are given") from None
    assert isinstance(found, VerifiedUser)
    identity = json.loads(found.attributes)
    assert (identity["issuer"], identity["subject"]) == (claims["iss"], claims["sub"])
    assert identity["tokenIdentifier"] == f"{claims['iss']}|{claims['sub']}"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=200) | st.lists(st.text("ey.JhbGciOi-_=Z", max_size=30), max_size=4).map(".".join))
def test_whatever_is_sent_as_a_token_is_refused(issuer: OidcIssuer, text: str) -> None:
    with pytest.raises(Unauthorized):
        Verifying(data_provider(issuer)).verifier.verify(text)


def data_provider(issuer: OidcIssuer) -> CustomJwtProvider:
    encoded = base64.b64encode(json.dumps(issuer.key_set).encode()).decode()
    return CustomJwtProvider(issuer.url, f"data:application/json;base64,{encoded}", "EdDSA")


def test_who_is_configured_is_told_in_development_only(issuer: OidcIssuer) -> None:
    async def test() -> None:
        token = issuer.token(aud="other")
        assert AUDIENCE in str(await Verifying(oidc(issuer)).refusal(token))
        assert str(await Verifying(oidc(issuer), redact=True).refusal(token)) == (
            "No auth provider found matching the given token."
        )
        nobody = await Verifying().refusal(token)
        assert isinstance(nobody, NoAuthProvider)

    run(test)


# --- Keys -------------------------------------------------------------------------------------------------------------


def test_keys_are_fetched_once_and_by_one(issuer: OidcIssuer) -> None:
    async def test() -> None:
        verifying = Verifying(oidc(issuer))
        issuer.gate.clear()
        tokens = [issuer.token(sub=f"user-{number}") for number in range(20)]
        waiting = [asyncio.ensure_future(verifying.user(token)) for token in tokens]
        done, _ = await asyncio.wait(waiting, timeout=0.05)
        assert not done
        issuer.gate.set()
        await asyncio.gather(*waiting)
        assert isinstance(verifying.verifier.verify(issuer.token()), VerifiedUser)
        assert issuer.fetches == {DISCOVERY: 1, JWKS: 1}

    run(test)


def test_an_unknown_key_has_the_keys_fetched_again_but_not_all_the_time(issuer: OidcIssuer) -> None:
    async def test() -> None:
        verifying = Verifying(oidc(issuer))
        await verifying.user(issuer.token())
        new = issuer.rotate("RS256")
        assert new.kid in str(await verifying.refusal(issuer.token())), "the keys were fetched a moment ago"
        verifying.advance(LIMITS.issuer_refetch_ms_min)
        await verifying.user(issuer.token())
        assert issuer.fetches[JWKS] == 2
        for _ in range(5):
            await verifying.refusal(issuer.token(header={"kid": "made-up"}))
        assert issuer.fetches[JWKS] == 2

    run(test)


def test_keys_that_are_not_fresh_are_fetched_beside(issuer: OidcIssuer) -> None:
    """A key that its issuer has withdrawn is good for that one token more, and no longer."""

    async def test() -> None:
        verifying = Verifying(oidc(issuer))
        long_lived = issuer.token(exp=START_S + 10**6)
        await verifying.user(long_lived)
        issuer.rotate("RS256")
        verifying.advance(LIMITS.issuer_keys_fresh_ms)
        assert isinstance(verifying.verifier.verify(long_lived), VerifiedUser)
        await settled()
        assert "no key for RS256" in str(await verifying.refusal(long_lived))

    run(test)


async def settled() -> None:
    """Until nothing but the test runs."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


def test_an_issuer_that_is_down_costs_only_those_who_need_it(issuer: OidcIssuer) -> None:
    async def test() -> None:
        verifying = Verifying(oidc(issuer))
        await verifying.user(issuer.token())
        long_lived = issuer.token(exp=START_S + 10**6)
        issuer.failing = True
        verifying.advance(LIMITS.issuer_keys_fresh_ms)
        for _ in range(3):
            await verifying.user(long_lived)
            await settled()
        assert issuer.fetches[DISCOVERY] == 2, "it is asked again only after a while"
        verifying.advance(LIMITS.issuer_refetch_ms_min)
        for _ in range(2):  # the second time at once
            with pytest.raises(IssuerUnavailable, match=f"{DISCOVERY} answered 503"):
                await verifying.user(issuer.token({"exp": START_S + 10**6}, header={"kid": "new"}))
        verifying.advance(LIMITS.issuer_keys_age_ms_max)
        with pytest.raises(IssuerUnavailable, match="answered 503"):
            await verifying.user(long_lived)
        with pytest.raises(IssuerUnavailable):  # at once
            await verifying.user(long_lived)
        issuer.failing = False
        verifying.advance(LIMITS.issuer_refetch_ms_min)
        await verifying.user(long_lived)

    run(test)


@pytest.mark.parametrize(
    ("path", "answer", "text"),
    [
        (DISCOVERY, b"<html>", f"{DISCOVERY} is not JSON"),
        (DISCOVERY, b"{}", "names no jwks_uri"),
        (DISCOVERY, b'{"jwks_uri": "http://127.0.0.1/", "issuer": "https://eve.example"}', "of 'https://eve.example'"),
        (DISCOVERY, b'{"jwks_uri": "file:///etc/passwd", "issuer": "URL"}', "file:///etc/passwd is no http or https"),
        (DISCOVERY, b"x" * (LIMITS.issuer_document_bytes_max + 1), "issuer_document_bytes_max"),
        (JWKS, b"<html>", "it is not JSON"),
        (JWKS, b"[]", "it is no key set"),
        (JWKS, b'{"keys": []}', "no key for RS256, ES256 or EdDSA"),
    ],
)
def test_documents_that_are_of_no_use(issuer: OidcIssuer, path: str, answer: bytes, text: str) -> None:
    issuer.answers[path] = Response(answer.replace(b"URL", issuer.url.encode()))

    async def test() -> None:
        with pytest.raises(IssuerUnavailable) as raised:
            await Verifying(oidc(issuer)).user(issuer.token())
        assert text in str(raised.value)

    run(test)


def test_a_redirect_leads_nowhere_but_to_the_web(issuer: OidcIssuer) -> None:
    issuer.answers[JWKS] = Response(b"", 302, {"location": "file:///etc/passwd"})

    async def test() -> None:
        with pytest.raises(IssuerUnavailable, match=r"answered 302|cannot be read"):
            await Verifying(oidc(issuer)).user(issuer.token())

    run(test)


def test_an_issuer_that_never_answers(issuer: OidcIssuer) -> None:
    async def test() -> None:
        issuer.gate.clear()
        verifying = Verifying(oidc(issuer), limits=Limits(issuer_fetch_ms_max=50))
        try:
            with pytest.raises(IssuerUnavailable, match=r"within 50 ms \(issuer_fetch_ms_max\)"):
                await verifying.user(issuer.token())
        finally:
            issuer.gate.set()

    run(test)


def test_keys_of_no_use_are_passed_over(issuer: OidcIssuer) -> None:
    good = issuer.key("RS256").public_jwk
    others = [
        {**good, "use": "enc", "kid": "enc"},
        {**good, "alg": "RS512", "kid": "rs512"},
        {**good, "d": "secret", "kid": "private"},
        {**good, "key_ops": ["sign"], "kid": "ops"},
        {**good, "key_ops": 7, "kid": "odd"},
        {**good, "n": "AQAB", "kid": "short"},
        {**good, "n": 7, "kid": "broken"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
        {"kty": ["RSA"]},
        "nonsense",
    ]
    issuer.answers[JWKS] = Response(json.dumps({"keys": [*others, good]}))

    async def test() -> None:
        verifying = Verifying(oidc(issuer))
        await verifying.user(issuer.token())
        await verifying.user(issuer.token(header={"kid": None}))  # it names no key, and there is one
        for entry in others:
            if isinstance(entry, dict) and isinstance(entry.get("kid"), str):
                assert "no key for RS256" in str(await verifying.refusal(issuer.token(header={"kid": entry["kid"]})))

    run(test)


def test_a_token_that_names_none_of_several_keys(issuer: OidcIssuer) -> None:
    issuer.add_key("RS256")

    async def test() -> None:
        error = await Verifying(oidc(issuer)).refusal(issuer.token(header={"kid": None}))
        assert "several keys for RS256, which its token does not name (kid)" in str(error)

    run(test)


def test_providers_are_those_of_the_code_that_is_served(issuer: OidcIssuer) -> None:
    async def test() -> None:
        verifying = Verifying(oidc(issuer))
        await verifying.user(issuer.token())
        verifying.providers = (oidc(issuer, application_id="other"),)
        await verifying.refusal(issuer.token())
        verifying.providers = (oidc(issuer),)
        fetched = issuer.fetches[JWKS]
        await verifying.user(issuer.token())
        assert issuer.fetches[JWKS] == fetched, "its keys are kept while nobody asks for others"
        verifying.providers = (oidc(issuer, application_id="other"),)
        await verifying.user(issuer.token(aud="other"))
        verifying.providers = (oidc(issuer),)
        await verifying.user(issuer.token())
        assert issuer.fetches[JWKS] == fetched + 2, "they were forgotten"

    run(test)
