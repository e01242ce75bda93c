import { Component, type ReactNode } from "react";

type Props = { children: ReactNode };

/** Shows what went wrong in place of what it happened in, and lets one try again. */
export class ErrorBoundary extends Component<Props, { error: unknown }> {
  override state: { error: unknown } = { error: null };

  static getDerivedStateFromError(error: unknown) {
    return { error };
  }

  override render() {
    if (this.state.error === null) return this.props.children;
    return (
      <div className="notice" role="alert">
        <h2>Something went wrong</h2>
        <p>{this.state.error instanceof Error ? this.state.error.message : String(this.state.error)}</p>
        <button type="button" className="button" onClick={() => this.setState({ error: null })}>
          Try again
        </button>
      </div>
    );
  }
}
