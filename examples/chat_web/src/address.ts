// Which channel the address bar names: `/c/general`. Any such path is this page, by the server's fallback to index.html.

import { useSyncExternalStore } from "react";

const CHANNEL = /^\/c\/([^/]+)\/?$/;
const listeners = new Set<() => void>();

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  window.addEventListener("popstate", listener);
  return () => {
    listeners.delete(listener);
    window.removeEventListener("popstate", listener);
  };
}

export function channelPath(name: string): string {
  return `/c/${encodeURIComponent(name)}`;
}

export function goTo(path: string, { replace = false } = {}): void {
  window.history[replace ? "replaceState" : "pushState"](null, "", path);
  listeners.forEach((listener) => listener());
}

/** The name of the channel in the address, or null if it names none. */
export function useChannelName(): string | null {
  const path = useSyncExternalStore(subscribe, () => window.location.pathname);
  const encoded = CHANNEL.exec(path)?.[1];
  if (encoded === undefined) return null;
  try {
    return decodeURIComponent(encoded);
  } catch {
    return encoded;
  }
}
