import { usePaginatedQuery } from "convex/react";
import { useEffect, useRef, useState } from "react";
import { type Channel, history, type Message } from "./api";
import { Icon, Mark } from "./Icon";
import { MessageGroup } from "./MessageGroup";
import { useMe } from "./session";
import { dayName, dayOf } from "./time";

const PAGE = 30;
const GROUP_MS = 5 * 60_000;
const NEAR_END_PX = 160;

/** The newest messages at the bottom, older ones as one scrolls up. */
export function MessageList({ channel }: { channel: Channel }) {
  const { results, status, loadMore } = usePaginatedQuery(history, { channel: channel._id }, { initialNumItems: PAGE });
  const me = useMe();
  const scroller = useRef<HTMLDivElement>(null);
  const [isAway, setIsAway] = useState(false);
  const groups = grouped(results.toReversed());
  const newest = results[0];
  const isMine = newest !== undefined && newest.user === me?.user;

  useEffect(() => {
    if (isMine) scroller.current?.scrollTo({ top: 0 }); // who writes wants to see what he has written
  }, [isMine, newest?.key]);

  if (status === "LoadingFirstPage" || me === undefined) return <MessagesSkeleton />;
  return (
    <div className="messages">
      {/* Laid out from the bottom: it stays where it is while older messages come in above. */}
      <div
        className="scroller"
        ref={scroller}
        tabIndex={0}
        role="log"
        aria-label={`Messages in ${channel.name}`}
        onScroll={(event) => setIsAway(event.currentTarget.scrollTop < -NEAR_END_PX)}
      >
        <div className="column">
          {results.length === 0 ? (
            <Empty canWrite={me !== null} />
          ) : (
            <Older status={status} channel={channel.name} loadMore={() => loadMore(PAGE)} />
          )}
          <ol className="groups">
            {groups.map((group, place) => (
              <li key={keyOf(group[0])}>
                {startsDay(groups, place) && <h2 className="day">{dayName(group[0]._creationTime)}</h2>}
                <MessageGroup messages={group} isMine={group[0].user === me?.user} />
              </li>
            ))}
          </ol>
        </div>
      </div>
      {isAway && (
        <button type="button" className="to-end" onClick={() => scroller.current?.scrollTo({ top: 0, behavior: "smooth" })}>
          <Icon name="down" /> Latest messages
        </button>
      )}
    </div>
  );
}

type Group = [Message, ...Message[]];

export const keyOf = (message: Message): string => `${message.user} ${message.key}`;

/** What one person says in one go. */
function grouped(messages: Message[]): Group[] {
  const groups: Group[] = [];
  let last: Message | undefined;
  for (const message of messages) {
    const group = groups.at(-1);
    const goesOn =
      last !== undefined &&
      last.user === message.user &&
      message._creationTime - last._creationTime < GROUP_MS &&
      dayOf(message._creationTime) === dayOf(last._creationTime);
    if (group !== undefined && goesOn) group.push(message);
    else groups.push([message]);
    last = message;
  }
  return groups;
}

function startsDay(groups: Group[], place: number): boolean {
  const [group, before] = [groups[place], groups[place - 1]];
  return group !== undefined && (!before || dayOf(before[0]._creationTime) !== dayOf(group[0]._creationTime));
}

type OlderProps = { status: "CanLoadMore" | "LoadingMore" | "Exhausted"; channel: string; loadMore: () => void };

/** Asks for older messages when it comes into view; there is a button for whoever does not scroll. */
function Older({ status, channel, loadMore }: OlderProps) {
  const place = useRef<HTMLDivElement>(null);
  const load = useRef(loadMore);
  load.current = loadMore;

  useEffect(() => {
    if (status !== "CanLoadMore" || place.current === null) return;
    const observer = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && load.current());
    observer.observe(place.current);
    return () => observer.disconnect();
  }, [status]);

  return (
    <div className="older" ref={place}>
      {status === "CanLoadMore" && (
        <button type="button" className="link" onClick={loadMore}>
          Older messages
        </button>
      )}
      {status === "LoadingMore" && <p className="hint">Looking for older messages …</p>}
      {status === "Exhausted" && <p className="hint">The beginning of #{channel}</p>}
    </div>
  );
}

function Empty({ canWrite }: { canWrite: boolean }) {
  return (
    <div className="empty">
      <Mark />
      <p>Nothing has been said here yet.</p>
      <p className="hint">
        {canWrite ? "Write the first message, with a second window beside this one." : "Sign in and be the first."}
      </p>
    </div>
  );
}

export function MessagesSkeleton() {
  return (
    <div className="messages skeleton" aria-hidden="true">
      <div className="column">
        {[46, 62, 30, 54, 38].map((width, place) => (
          <span key={place} style={{ inlineSize: `${width}%` }} />
        ))}
      </div>
    </div>
  );
}
