// How times are told.

import { useEffect, useState } from "react";

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const EXACT = new Intl.DateTimeFormat(undefined, { dateStyle: "long", timeStyle: "medium" });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const DAY_OF_YEAR = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long", year: "numeric" });

export const clockTime = (ms: number): string => CLOCK.format(ms);
export const exactTime = (ms: number): string => EXACT.format(ms);

export function dayOf(ms: number): string {
  return new Date(ms).toDateString();
}

export function dayName(ms: number, now = new Date()): string {
  const yesterday = new Date(now.getFullYear(), now.getMonth(), now.getDate() - 1);
  if (dayOf(ms) === now.toDateString()) return "Today";
  if (dayOf(ms) === yesterday.toDateString()) return "Yesterday";
  return (new Date(ms).getFullYear() === now.getFullYear() ? DAY : DAY_OF_YEAR).format(ms);
}

/** "12 s", "4 min", "2 h": rounded up, so that nothing is there at zero. */
export function remaining(ms: number): string {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.ceil(seconds / 60)} min`;
  return `${Math.ceil(seconds / 3600)} h`;
}

/** The time, anew at every full second. */
export function useNow(): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  return now;
}
