// A message is on the page as soon as it is sent. It is replaced by the real one in the moment that shows it.

import type { OptimisticUpdate } from "convex/browser";
import { insertAtTop, useMutation } from "convex/react";
import type { FunctionArgs } from "convex/server";
import { useMemo } from "react";
import { history, type Person, sendMessage } from "./api";

/** The id of a message that has not arrived. */
export const PENDING = "pending";

let sent = 0;

/** A key that no other message of this person has. */
export function newKey(): string {
  sent += 1;
  return `${Date.now().toString(36)}-${sent}-${Math.random().toString(36).slice(2, 8)}`;
}

export function useSend(person: Person) {
  const send = useMutation(sendMessage);
  return useMemo(() => send.withOptimisticUpdate(shownAtOnce(person)), [send, person]);
}

function shownAtOnce(person: Person): OptimisticUpdate<FunctionArgs<typeof sendMessage>> {
  return (store, { channel, body, key, life_ms }) => {
    const now = Date.now();
    insertAtTop({
      paginatedQuery: history,
      argsToMatch: { channel },
      localQueryStore: store,
      item: {
        _id: PENDING,
        _creationTime: now,
        channel,
        user: person.user,
        author: person.name,
        key,
        body: body.trim(),
        ...(life_ms !== undefined && { vanishes_at: now + life_ms }),
      },
    });
  };
}
