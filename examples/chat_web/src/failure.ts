// What to tell people when a mutation has failed.

import { ConvexError } from "convex/values";

/** The functions' own words for what they refuse; of anything else only that it happened. */
export function whyNot(error: unknown): string {
  if (error instanceof ConvexError) {
    const data: unknown = error.data;
    if (typeof data === "object" && data !== null && "message" in data) return String(data.message);
  }
  console.error(error);
  return "That did not work. Try it again.";
}
