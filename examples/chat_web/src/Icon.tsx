const PATHS = {
  menu: "M4 7h16M4 12h16M4 17h10",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 20V5M5.5 11.5L12 5l6.5 6.5",
  plus: "M12 5v14M5 12h14",
  down: "M12 5v14M5.5 12.5L12 19l6.5-6.5",
  clock: "M12 7.5V12l3 2M12 3.5a8.5 8.5 0 1 0 0 17a8.5 8.5 0 1 0 0-17Z",
} as const;

/** A drawing beside words, or in a button that has a name of its own: nobody needs to hear of it. */
export function Icon({ name }: { name: keyof typeof PATHS }) {
  return (
    <svg className="icon" viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}

/** An ellipse and its evolute. */
export function Mark() {
  return (
    <svg className="mark" viewBox="0 0 32 32" aria-hidden="true">
      <ellipse cx="16" cy="16" rx="14.6" ry="10.4" />
      <path d="M6 16Q14 15 16 5.5Q18 15 26 16Q18 17 16 26.5Q14 17 6 16Z" />
    </svg>
  );
}
