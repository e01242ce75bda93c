import { useConvexAuth, useConvexConnectionState, useMutation, useQuery } from "convex/react";
import { useEffect } from "react";
import { type Channel, heartbeat, leave, listHere, type Person } from "./api";
import { Avatar } from "./Avatar";
import { Composer } from "./Composer";
import { Icon } from "./Icon";
import { MessageList, MessagesSkeleton } from "./MessageList";

const HEARTBEAT_MS = 8_000;
const FACES_MAX = 4;

export function Room({ channel, onMenu }: { channel: Channel; onMenu: () => void }) {
  useHeartbeat(channel._id);
  const people = useQuery(listHere, { channel: channel._id });
  return (
    <main className="room">
      <header>
        <button type="button" className="quiet menu" onClick={onMenu} aria-label="Channels">
          <Icon name="menu" />
        </button>
        <h1>{channel.name}</h1>
        {people !== undefined && <Presence people={people} />}
      </header>
      <ConnectionStatus />
      <MessageList channel={channel} />
      <Composer key={channel._id} channel={channel} />
    </main>
  );
}

export function RoomSkeleton() {
  return (
    <main className="room" aria-busy="true" aria-label="Loading">
      <header />
      <ConnectionStatus />
      <MessagesSkeleton />
    </main>
  );
}

function Presence({ people }: { people: Person[] }) {
  if (people.length === 0) return null;
  const names = people.map((person) => person.name).join(", ");
  return (
    <p className="presence" title={names}>
      <span className="faces">
        {people.slice(0, FACES_MAX).map((person) => (
          <Avatar key={person.user} person={person} />
        ))}
      </span>
      <span aria-hidden="true">{people.length} here</span>
      <span className="unseen">Here now: {names}</span>
    </p>
  );
}

/** Says that we are here for as long as somebody is looking. */
function useHeartbeat(channel: string) {
  const { isAuthenticated } = useConvexAuth();
  const beat = useMutation(heartbeat);
  const depart = useMutation(leave);
  useEffect(() => {
    if (!isAuthenticated) return;
    const beatIfSeen = () => {
      if (document.visibilityState === "visible") beat({ channel }).catch(console.warn);
    };
    beatIfSeen();
    const timer = setInterval(beatIfSeen, HEARTBEAT_MS);
    document.addEventListener("visibilitychange", beatIfSeen);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", beatIfSeen);
      depart({ channel }).catch(console.warn);
    };
  }, [isAuthenticated, channel, beat, depart]);
}

function ConnectionStatus() {
  const { isWebSocketConnected, hasEverConnected } = useConvexConnectionState();
  return (
    <div className="connection" role="status">
      {!isWebSocketConnected && (
        <p>
          {hasEverConnected
            ? "The connection is lost. What you write now is sent as soon as it is back."
            : "Connecting …"}
        </p>
      )}
    </div>
  );
}
