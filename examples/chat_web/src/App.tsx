import { useMutation, useQuery } from "convex/react";
import { useEffect, useState } from "react";
import { channelPath, goTo, useChannelName } from "./address";
import { listChannels, openFirstChannel } from "./api";
import { Drawer } from "./Drawer";
import { ErrorBoundary } from "./ErrorBoundary";
import { Room, RoomSkeleton } from "./Room";
import { Sidebar } from "./Sidebar";

/** The channels beside the one that is open; on a narrow screen they are in a drawer. */
export function App() {
  const channels = useQuery(listChannels);
  const openFirst = useMutation(openFirstChannel);
  const name = useChannelName();
  const [isMenuOpen, setIsMenuOpen] = useState(false);
  const channel = channels?.find((each) => each.name === name);
  const first = channels?.[0]?.name;

  useEffect(() => {
    if (channels?.length === 0) void openFirst();
  }, [channels, openFirst]);
  useEffect(() => {
    if (name === null && first !== undefined) goTo(channelPath(first), { replace: true });
  }, [name, first]);
  useEffect(() => {
    document.title = name === null ? "evolute chat" : `#${name} · evolute chat`;
    setIsMenuOpen(false);
  }, [name]);

  return (
    <div className="app">
      <aside className="beside">
        <Sidebar channels={channels} current={name} />
      </aside>
      {isMenuOpen && (
        <Drawer onClose={() => setIsMenuOpen(false)}>
          <Sidebar channels={channels} current={name} onClose={() => setIsMenuOpen(false)} />
        </Drawer>
      )}
      <ErrorBoundary key={channel?._id}>
        {channel !== undefined ? (
          <Room channel={channel} onMenu={() => setIsMenuOpen(true)} />
        ) : channels === undefined || name === null ? (
          <RoomSkeleton />
        ) : (
          <main className="notice">
            <h1>There is no #{name}</h1>
            <p>Perhaps it is called something else, or nobody has made it yet.</p>
            <a className="button" href="/" onClick={(event) => (event.preventDefault(), goTo("/"))}>
              Show me what there is
            </a>
          </main>
        )}
      </ErrorBoundary>
    </div>
  );
}
