// The functions of `chat/` that the page calls, with their types.

import { makeFunctionReference, type PaginationOptions, type PaginationResult } from "convex/server";

export type Channel = { _id: string; _creationTime: number; name: string };

export type Message = {
  _id: string;
  _creationTime: number;
  channel: string;
  user: string;
  author: string;
  /** Chosen by the sender, so that a message that is shown before it has arrived stays the same when it has. */
  key: string;
  body: string;
  vanishes_at?: number;
};

export type Person = { user: string; name: string };

export const me = makeFunctionReference<"query", Record<string, never>, Person | null>("people:me");

export const listChannels = makeFunctionReference<"query", Record<string, never>, Channel[]>("channels:list_all");
export const createChannel = makeFunctionReference<"mutation", { name: string }, Channel>("channels:create");
export const openFirstChannel = makeFunctionReference<"mutation", Record<string, never>, null>("channels:open_first");

export const history = makeFunctionReference<
  "query",
  { channel: string; paginationOpts: PaginationOptions },
  PaginationResult<Message>
>("messages:history");
export const sendMessage = makeFunctionReference<
  "mutation",
  { channel: string; body: string; key: string; life_ms?: number },
  string
>("messages:send");

export const listHere = makeFunctionReference<"query", { channel: string }, Person[]>("presence:list_here");
export const heartbeat = makeFunctionReference<"mutation", { channel: string }, null>("presence:heartbeat");
export const leave = makeFunctionReference<"mutation", { channel: string }, null>("presence:leave");
