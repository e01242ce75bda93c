// Who sits at this browser: signed in with an OpenID Connect issuer (authorization code with PKCE), or nobody.

import { useConvexAuth, useQuery } from "convex/react";
import { type User, UserManager, WebStorageStateStore } from "oidc-client-ts";
import { createContext, type ReactNode, use, useCallback, useEffect, useMemo, useState } from "react";
import { goTo } from "./address";
import { me, type Person } from "./api";

const ISSUER: string = import.meta.env["VITE_OIDC_ISSUER"] ?? "http://127.0.0.1:8099";
const CLIENT = "chat-web";

type Session = {
  isLoading: boolean;
  isSignedIn: boolean;
  /** Why signing in did not work, for people. */
  failure: string | null;
  signIn: () => void;
  signOut: () => void;
  fetchAccessToken: (options: { forceRefreshToken: boolean }) => Promise<string | null>;
};

const SessionContext = createContext<Session | null>(null);

const manager = new UserManager({
  authority: ISSUER,
  client_id: CLIENT,
  redirect_uri: `${window.location.origin}/`,
  scope: "openid profile offline_access",
  userStore: new WebStorageStateStore({ store: window.localStorage }),
  automaticSilentRenew: false, // Convex's client says when it needs another token
});

/** Comes back from the issuer's page, if that is where we come from, and finds out who is signed in. */
async function resume(): Promise<User | null> {
  const given = new URLSearchParams(window.location.search);
  if (!given.has("state") || !(given.has("code") || given.has("error"))) return manager.getUser();
  let back = "/";
  try {
    const user = (await manager.signinCallback()) ?? null;
    if (typeof user?.state === "string" && user.state.startsWith("/")) back = user.state;
    return user;
  } finally {
    goTo(back, { replace: true }); // the code is used up
  }
}

const resumed = resume();

async function fetchAccessToken({ forceRefreshToken }: { forceRefreshToken: boolean }): Promise<string | null> {
  const user = await manager.getUser();
  if (user === null) return null;
  if ((forceRefreshToken || user.expired) && user.refresh_token) {
    try {
      return (await manager.signinSilent())?.id_token ?? null;
    } catch (error) {
      console.warn("The issuer gave no new token.", error); // the one we have may do for a while
    }
  }
  return user.expired ? null : (user.id_token ?? null);
}

export function SessionProvider({ children }: { children: ReactNode }) {
  const [user, setUser] = useState<User | null>(null);
  const [isLoading, setIsLoading] = useState(true);
  const [failure, setFailure] = useState<string | null>(null);

  const failed = useCallback((error: unknown) => {
    console.error(error);
    setFailure("Signing in did not work. Is the sign-in service running?");
  }, []);

  useEffect(() => {
    manager.events.addUserLoaded(setUser);
    const clear = () => setUser(null);
    manager.events.addUserUnloaded(clear);
    resumed.then(setUser, failed).finally(() => setIsLoading(false));
    return () => {
      manager.events.removeUserLoaded(setUser);
      manager.events.removeUserUnloaded(clear);
    };
  }, [failed]);

  const signIn = useCallback(() => {
    setFailure(null);
    manager.signinRedirect({ state: window.location.pathname }).catch(failed);
  }, [failed]);
  const signOut = useCallback(() => void manager.removeUser(), []);

  const isSignedIn = user !== null;
  const session = useMemo(
    () => ({ isLoading, isSignedIn, failure, signIn, signOut, fetchAccessToken }),
    [isLoading, isSignedIn, failure, signIn, signOut],
  );
  return <SessionContext value={session}>{children}</SessionContext>;
}

export function useSession(): Session {
  const session = use(SessionContext);
  if (session === null) throw new Error("useSession() needs a SessionProvider above");
  return session;
}

/** What `ConvexProviderWithAuth` asks for. */
export function useSessionAuth() {
  const { isLoading, isSignedIn, fetchAccessToken } = useSession();
  return { isLoading, isAuthenticated: isSignedIn && !isLoading, fetchAccessToken };
}

/** Who the server takes us for; undefined until that is known. */
export function useMe(): Person | null | undefined {
  const { isLoading, isAuthenticated } = useConvexAuth();
  const person = useQuery(me, isAuthenticated ? {} : "skip");
  if (isLoading) return undefined;
  return isAuthenticated ? person : null;
}
