import { useMutation } from "convex/react";
import { type FormEvent, type MouseEvent, useState } from "react";
import { channelPath, goTo } from "./address";
import { type Channel, createChannel } from "./api";
import { Avatar } from "./Avatar";
import { whyNot } from "./failure";
import { Icon, Mark } from "./Icon";
import { useMe, useSession } from "./session";

type Props = { channels: Channel[] | undefined; current: string | null; onClose?: () => void };

export function Sidebar({ channels, current, onClose }: Props) {
  const { isSignedIn } = useSession();
  return (
    <div className="sidebar">
      <div className="brand">
        <Mark />
        <span>evolute chat</span>
        {onClose && (
          <button type="button" className="quiet" onClick={onClose} aria-label="Close">
            <Icon name="close" />
          </button>
        )}
      </div>
      <nav aria-label="Channels">
        <h2>Channels</h2>
        <ul>
          {channels?.map((channel) => (
            <li key={channel._id}>
              <a
                href={channelPath(channel.name)}
                aria-current={channel.name === current ? "page" : undefined}
                onClick={(event) => follow(event, channel.name)}
              >
                {channel.name}
              </a>
            </li>
          ))}
        </ul>
        {channels === undefined && <p className="hint">Looking for channels …</p>}
        {isSignedIn && <NewChannel />}
      </nav>
      <SessionPanel />
    </div>
  );
}

/** Clicks that ask for a new tab or window are the browser's. */
function follow(event: MouseEvent, name: string) {
  if (event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  goTo(channelPath(name));
}

function NewChannel() {
  const create = useMutation(createChannel);
  const [name, setName] = useState("");
  const [failure, setFailure] = useState<string | null>(null);

  async function submit(event: FormEvent) {
    event.preventDefault();
    if (name.trim() === "") return;
    try {
      const channel = await create({ name });
      setName("");
      setFailure(null);
      goTo(channelPath(channel.name));
    } catch (error) {
      setFailure(whyNot(error));
    }
  }

  return (
    <form className="new-channel" onSubmit={submit}>
      <input
        value={name}
        onChange={(event) => setName(event.target.value)}
        placeholder="New channel"
        aria-label="Name of a new channel"
        maxLength={32}
        autoComplete="off"
      />
      <button type="submit" className="quiet" aria-label="Create the channel" disabled={name.trim() === ""}>
        <Icon name="plus" />
      </button>
      {failure !== null && <p role="alert">{failure}</p>}
    </form>
  );
}

function SessionPanel() {
  const { isLoading, isSignedIn, signIn, signOut } = useSession();
  const person = useMe();
  if (isLoading) return <div className="session" />;
  if (!isSignedIn) {
    return (
      <div className="session">
        <span>You are reading along.</span>
        <button type="button" className="link" onClick={signIn}>
          Sign in
        </button>
      </div>
    );
  }
  return (
    <div className="session">
      {person && <Avatar person={person} />}
      <span className="who">{person?.name ?? "Signing in …"}</span>
      <button type="button" className="link" onClick={signOut}>
        Sign out
      </button>
    </div>
  );
}
