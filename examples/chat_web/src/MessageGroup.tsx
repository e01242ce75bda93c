import { type CSSProperties, useState } from "react";
import type { Message } from "./api";
import { Avatar, hueStyle } from "./Avatar";
import { Icon } from "./Icon";
import { keyOf } from "./MessageList";
import { PENDING } from "./optimistic";
import { clockTime, exactTime, remaining, useNow } from "./time";

const FADE_MS = 800;

type Props = { messages: [Message, ...Message[]]; isMine: boolean };

export function MessageGroup({ messages, isMine }: Props) {
  const [first] = messages;
  return (
    <article className={isMine ? "group mine" : "group"} style={hueStyle(first.user)}>
      {!isMine && <Avatar person={{ user: first.user, name: first.author }} />}
      <header>
        <span className={isMine ? "unseen" : "author"}>{first.author}</span>
        <time dateTime={new Date(first._creationTime).toISOString()} title={exactTime(first._creationTime)}>
          {clockTime(first._creationTime)}
        </time>
      </header>
      <div className="bubbles">
        {messages.map((message) => (
          <Bubble key={keyOf(message)} message={message} />
        ))}
      </div>
    </article>
  );
}

function Bubble({ message }: { message: Message }) {
  const isPending = message._id === PENDING;
  const [start] = useState(Date.now);
  const fade = message.vanishes_at !== undefined && { animationDelay: `${message.vanishes_at - start - FADE_MS}ms` };
  const classes = ["bubble", isPending && "pending", message.vanishes_at !== undefined && "vanishing"];
  return (
    <div className={classes.filter(Boolean).join(" ")} style={fade || {}} title={exactTime(message._creationTime)}>
      <p dir="auto">{message.body}</p>
      {message.vanishes_at !== undefined && (
        <Countdown from={message._creationTime} to={message.vanishes_at} isRunning={!isPending} />
      )}
      {isPending && (
        <span className="sending">
          <Icon name="clock" />
          <span className="unseen">Sending</span>
        </span>
      )}
    </div>
  );
}

/** A ring that runs out, and the time that is left. The ring is drawn by CSS; only the words change. */
function Countdown({ from, to, isRunning }: { from: number; to: number; isRunning: boolean }) {
  const now = useNow();
  const [start] = useState(Date.now);
  const ring = {
    animationDuration: `${to - from}ms`,
    animationDelay: `${from - start}ms`,
    animationPlayState: isRunning ? "running" : "paused",
  } satisfies CSSProperties;
  return (
    <span className="countdown">
      <svg viewBox="0 0 16 16" aria-hidden="true">
        <circle cx="8" cy="8" r="6" />
        <circle cx="8" cy="8" r="6" pathLength="1" style={ring} />
      </svg>
      <span aria-hidden="true">{remaining(Math.min(to - now, to - from))}</span>
      <span className="unseen">Vanishes at {exactTime(to)}</span>
    </span>
  );
}
