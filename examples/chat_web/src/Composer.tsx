import { type KeyboardEvent, useRef, useState } from "react";
import type { Channel, Person } from "./api";
import { whyNot } from "./failure";
import { Icon } from "./Icon";
import { newKey, useSend } from "./optimistic";
import { useMe, useSession } from "./session";

const LIVES = [
  { label: "Stays", ms: undefined },
  { label: "Vanishes in 5 s", ms: 5_000 },
  { label: "Vanishes in 1 min", ms: 60_000 },
  { label: "Vanishes in 1 h", ms: 3_600_000 },
] as const;
/** A keyboard that would cover half of a phone should not come up by itself. */
const MAY_FOCUS = window.matchMedia("(pointer: fine)").matches;
const BODY_LENGTH_MAX = 4000;

/** Where one writes, or is asked to sign in. */
export function Composer({ channel }: { channel: Channel }) {
  const { isSignedIn, failure, signIn } = useSession();
  const person = useMe();
  if (person === undefined) return <footer className="composer" aria-busy="true" />;
  if (person !== null) return <Writing channel={channel} person={person} />;
  const why = failure ?? (isSignedIn ? "The server did not accept this sign-in." : null);
  return (
    <footer className="composer">
      <div className="column ask">
        <p role={why === null ? undefined : "alert"}>{why ?? "Everybody can read. To write, sign in."}</p>
        <button type="button" className="button" onClick={signIn}>
          Sign in
        </button>
      </div>
    </footer>
  );
}

function Writing({ channel, person }: { channel: Channel; person: Person }) {
  const send = useSend(person);
  const [body, setBody] = useState("");
  const [life, setLife] = useState(0);
  const [failure, setFailure] = useState<string | null>(null);
  const field = useRef<HTMLTextAreaElement>(null);
  const canSend = body.trim() !== "";

  async function submit() {
    if (!canSend) return;
    const ms = LIVES[life]?.ms;
    setBody("");
    setFailure(null);
    field.current?.focus();
    try {
      await send({ channel: channel._id, body, key: newKey(), ...(ms !== undefined && { life_ms: ms }) });
    } catch (error) {
      setFailure(whyNot(error));
      setBody((later) => (later === "" ? body : `${body}\n${later}`)); // nothing that was written is lost
    }
  }

  function onKeyDown(event: KeyboardEvent) {
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    void submit();
  }

  return (
    <footer className="composer">
      <form className="column" onSubmit={(event) => (event.preventDefault(), void submit())}>
        {failure !== null && (
          <p className="failure" role="alert">
            {failure}
          </p>
        )}
        <div className="field">
          <textarea
            ref={field}
            value={body}
            rows={1}
            dir="auto"
            autoFocus={MAY_FOCUS}
            maxLength={BODY_LENGTH_MAX}
            placeholder={`Write to ${channel.name}`}
            aria-label={`Message to ${channel.name}`}
            onChange={(event) => setBody(event.target.value)}
            onKeyDown={onKeyDown}
          />
          <div className="tools">
            <label className={life === 0 ? "life" : "life chosen"}>
              <Icon name="clock" />
              <select value={life} onChange={(event) => setLife(Number(event.target.value))} aria-label="How long it stays">
                {LIVES.map(({ label }, place) => (
                  <option key={label} value={place}>
                    {label}
                  </option>
                ))}
              </select>
            </label>
            <span className="keys" aria-hidden="true">
              <kbd>Enter</kbd> sends, <kbd>Shift</kbd> <kbd>Enter</kbd> begins a line
            </span>
            <button type="submit" className="send" disabled={!canSend} aria-label="Send">
              <Icon name="send" />
            </button>
          </div>
        </div>
      </form>
    </footer>
  );
}
